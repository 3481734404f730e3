"""Where bytes are kept until they are a file in its place."""
