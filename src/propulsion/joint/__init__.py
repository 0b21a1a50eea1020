"""Many models that differ in their adapters and heads, trained on one frozen backbone, their rows in one batch.

`members` says what of a model trains and which models go together; `gains` makes of all adapters what a layer
multiplies each row with; `backbone` runs the pass and hands each model its part, forward and backward.
"""

from propulsion.joint.backbone import JointBackbone, JointPass
from propulsion.joint.members import Member, share_frozen, why_apart

__all__ = ["JointBackbone", "JointPass", "Member", "share_frozen", "why_apart"]
