"""The promises of the server floor, seen from outside: a process of its own, spoken to byte by byte."""
