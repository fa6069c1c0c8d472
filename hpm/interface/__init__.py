"""What Python programs call; `import hpm` has its public names.

pretraining  a run from configs to its end, which `hpm pretrain` shares
calls        train, load and evaluate
run          Run: a run that was trained, and what it recorded
model        Model: a trained model, and what it makes of images
isolation    calls that do not disturb each other, nor the program around them
"""
