"""The promises of the ASGI form, under real servers and message by message."""
