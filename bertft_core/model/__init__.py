"""Classifier and its layers by depth."""
