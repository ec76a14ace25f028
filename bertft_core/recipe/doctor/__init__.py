"""What is wrong with a home and a registry, and what of it can be mended safely."""
