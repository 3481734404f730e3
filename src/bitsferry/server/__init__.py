"""Answers packets: from the socket to the Ack."""
