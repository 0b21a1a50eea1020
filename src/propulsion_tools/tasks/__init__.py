"""What can be trained for: tasks by name, each with its data, its tensors and its scores."""

from propulsion_tools.tasks.base import DataSource, Lengths, Setup, Task, TaskData
from propulsion_tools.tasks.model_kinds import ModelKind
from propulsion_tools.tasks.registry import get_task, register, task_names

__all__ = ["DataSource", "Lengths", "ModelKind", "Setup", "Task", "TaskData", "get_task", "register", "task_names"]
