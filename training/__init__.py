"""What a training job runs. The way of the data through the files:

`source` fetches records -> `samples` takes from them what a method learns -> `examples` tokenises them -> `batches` and
`media` make tensors -> `methods/` give the loss -> `loop` trains, with `checkpoint`, `progress` and `metrics` ->
`runner`, which drives all of it on every rank, saves the model.

Methods of reinforcement learning draw their own answers while they train, with `rollout/`.

`launch` starts a run and reads how it ended; `pod` is the same for one pod of a cluster; `client` calls the services.
"""

import omnialign as omnialign  # first of all: see omnialign.torchvision
