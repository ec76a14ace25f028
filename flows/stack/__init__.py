"""`bertft up`: the services of a machine of one's own."""
