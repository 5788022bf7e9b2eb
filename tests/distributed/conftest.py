"""What the tests of jobs share."""

from tests.distributed.jobs import jobs as jobs
