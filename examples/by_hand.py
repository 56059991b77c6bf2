"""Train on scikit-learn's digits without the Trainer: a loop of one's own around one compiled step.

Run it with ``python examples/by_hand.py``; remove ``@smelt.compile`` to step through it in a debugger.
"""

import smelt
from smelt import data, nn, optim

smelt.seed(0)
train, test = data.digits()
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.1), nn.Linear(128, 10))
optimizer = optim.AdamW(model.parameters(), lr=1e-2)
schedule = optim.CosineAnnealing(t_max=15, min_lr=1e-4).bind(optimizer)


@smelt.compile
def step(x, y):
    """Do one training step; return the loss."""
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss


@smelt.compile
def right(x, y):
    """Return how many predictions are right."""
    with smelt.no_grad():
        return (model(x).argmax(1) == y).astype("int64").sum()


batches = data.Loader(train, 32, seed=0)
for epoch in range(1, 16):
    model.train()
    losses = [step(x, y).item() for x, y in batches]
    schedule.step()
    model.eval()
    x, y = test.batch(slice(None))
    print(f"epoch {epoch:2}  loss {sum(losses) / len(losses):.4f}  {right(x, y).item()}/{len(test)} right")
