"""Real conversations between Windows clients and servers, kept as text one can read."""
