"""What a person reads in the terminal: `screen` on the way, `tables` and sentences at the end."""
