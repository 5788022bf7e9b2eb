"""Files of weights, in the formats of several libraries, as arrays by name.

`read` recognizes the format, `write` makes one. Nothing in a file is believed: no
pickle runs, no name in it is that of a file, a class or a module, and sizes are
compared with the file before memory is taken for them.
"""

from linsey.weights.formats.reading import read as read
from linsey.weights.formats.writing import write as write
