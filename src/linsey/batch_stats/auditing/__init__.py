"""The checks of an audit, and the evidence that they examine."""
