"""What a nightly run remembers, looks at and decides."""
