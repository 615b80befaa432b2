"""roommeter: lifecycle events of media servers in, billed minutes and hourly rollups out."""
