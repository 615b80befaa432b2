"""Invoices: made, numbered, frozen, and written as documents."""
