"""What the library promises, tried many times: hostile bytes, long runs, kills, machines."""
