"""One encoder trained on several tasks at once, before each is fitted alone."""
