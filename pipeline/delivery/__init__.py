"""Deliveries: rollups to billing systems, at least once under their ids."""
