"""The path by which guides import the schedule of batch renormalization."""

from linsey.ops.batch_norm import renorm_schedule as renorm_schedule
