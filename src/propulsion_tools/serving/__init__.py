"""Answers over HTTP with many adapters of one base model, on top of `propulsion.AdapterBank`.

`loading` opens the base model and the adapters that `adapters` keeps by name; `model_thread` is the thread that runs
the model, for predictions (`batching`) or for texts (`generation`); `engine` is what they offer together, and `app`
puts it on HTTP: `build_app(engine)` is an application that can be mounted elsewhere. `command` is `propulsion serve`.
"""
