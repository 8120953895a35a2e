"""The engine `packed`: many LoRA trials at once over one frozen base model (docs/packed.md).

stack      the adapters of all slots in one tensor each for weights, gradients and moments
layers     how a batch goes through the base model with an adapter per group of its rows
dropout    masks that follow from (trial seed, step, layer) alone
optimizer  AdamW over the stack, each slot with its own rate, decay, step and clipping
cycle      one effective batch of every slot: forward, backward, losses
tenant     one attempt at one trial, in a slot
fitting    which trials can be packed, and which go to the engine `trainer`
engine     slots that take the next trial as soon as they are free
"""
