"""Consumer groups: several consumers that share out the partitions of topics among them."""

from pystream.group.admin import Group, GroupDescription, MemberDescription, PartitionDescription

__all__ = ["Group", "GroupDescription", "MemberDescription", "PartitionDescription"]
