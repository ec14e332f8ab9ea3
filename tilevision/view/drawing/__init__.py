"""What the user draws on the picture: regions."""
