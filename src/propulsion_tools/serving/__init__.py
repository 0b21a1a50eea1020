"""Answers over HTTP with many adapters of one base model, on top of `propulsion.AdapterBank`.

`loading` opens the base model and the adapters that `adapters` keeps by name; `model_thread` is the thread that runs
the model, for predictions (`batching`) or for texts (`generation`); `engine` is what they offer together, and `app`
puts it on HTTP: `build_app(engine)` is an application that can be mounted elsewhere. `command` is `propulsion serve`.

`interface` says what `app` needs of whatever answers. Over a cluster that is `remote`, which has the list of adapters
and calls the copies of the model, each a `replica`, by a handle of Ray Serve. `cluster` starts them, and `wire` is what
they say to each other.
"""
