"""The promises of the client floor."""
