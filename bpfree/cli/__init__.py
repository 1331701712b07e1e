"""What the commands share: flags, and how mistakes are answered."""
