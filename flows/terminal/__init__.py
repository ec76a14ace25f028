"""Progress and the live table of trials on a terminal."""
