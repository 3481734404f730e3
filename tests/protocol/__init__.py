"""The promises of the protocol floor."""
