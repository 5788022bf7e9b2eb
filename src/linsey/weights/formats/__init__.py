"""Files of weights, in the formats of several libraries, as arrays by name.

`read` detects the format, `write` writes one. Files are not trusted: no pickle is
executed, no name in a file is used to look up a file, a class or a module, and sizes
are compared with the file before memory is allocated.
"""

from linsey.weights.formats.reading import read as read
from linsey.weights.formats.writing import write as write
