"""The checks of an audit, and what they look at."""
