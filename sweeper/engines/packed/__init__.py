"""The engine `packed`: many LoRA trials at once over one frozen base model (docs/packed.md).

stack        the adapters of all slots in one tensor each for weights, gradients and moments
layers       how a batch goes through the base model with an adapter per group of its rows
dropout      masks that follow from (trial seed, step, layer) alone
own_dropout  the same masks for what the base model itself drops
optimizer    AdamW over the stack, each slot with its own rate, decay, step and clipping
cycle        one effective batch of every slot: forward, backward, losses
adapters     how adapters begin, and how they are written and read, as PEFT has them
tenant       one attempt at one trial, in a slot
fitting      which trials can be packed, and which go to the engine `trainer`
probe        how many slots are worth having, found by trying
memory       what so many slots would take of a device's memory
engine       slots that take the next trial as soon as they are free
"""
