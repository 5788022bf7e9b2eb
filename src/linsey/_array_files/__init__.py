"""Arrays in files of NumPy and in zip archives, read by somebody who trusts neither."""
