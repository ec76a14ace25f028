"""The gate: whether a challenger replaces the champion, as named checks over the same test rows."""
