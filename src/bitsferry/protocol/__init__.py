"""What is said between a BITS client and a BITS server: pure, without socket, file, clock or thread."""
