"""The doors people use: commands, their options, their words."""
