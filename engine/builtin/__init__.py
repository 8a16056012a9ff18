"""What ships with Signet: heads, labels, the demonstration audit, and the scripts that made them."""
