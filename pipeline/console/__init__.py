"""The console: pages on what is metered, for people. Server-rendered; the scripts only draw and refresh."""
