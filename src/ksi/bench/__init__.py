"""Speed, measured side by side with peers."""
