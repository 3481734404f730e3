"""Who is asking, and may they: each way of telling for itself."""
