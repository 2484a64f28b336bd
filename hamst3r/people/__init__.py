"""From masks and body coordinates to tracked people with body parameters."""
