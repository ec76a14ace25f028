"""The trainer process and the client that talks to it."""
