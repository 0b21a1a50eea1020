"""Real data without a download: the docstrings of the installed packages, one file per kind of row."""

from propulsion.tasks.mining.completions import mine_completions
from propulsion.tasks.mining.mentions import mine_mentions
from propulsion.tasks.mining.packages import mine_packages
from propulsion.tasks.mining.questions import mine_questions
from propulsion.tasks.mining.summaries import mine_summaries

__all__ = ["mine_completions", "mine_mentions", "mine_packages", "mine_questions", "mine_summaries"]
