"""Propulsion: steer a frozen network by rescaling the outputs of its layers, as a Hugging Face PEFT method."""
