"""Several Docker hosts on one machine, for tests and demos.

lab = Lab.create("t1", hosts=3, cluster=False, images=("busybox",))
lab.host("h1").exec(["docker", "ps"])
lab.host("h2").kill()
lab.destroy()
"""

from drover.lab.host import LabHost
from drover.lab.lab import HostStatus, Lab
from drover.lab.topology import DEFAULT_BASE, DEFAULT_NAME, HostSpec, Topology

__all__ = ["DEFAULT_BASE", "DEFAULT_NAME", "HostSpec", "HostStatus", "Lab", "LabHost", "Topology"]
