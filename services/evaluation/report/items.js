// Sorts and filters the items. Without it all of them are there, the worst first.
const list = document.getElementById("item-list"), controls = document.getElementById("controls");
if (list && controls) {
  const items = [...list.children], wanted = (name) => controls.querySelector(`[name=${name}]`)?.value ?? "";
  const reached = (item, model) => Number(item.dataset[model ? `model${model}` : "worst"]);
  const spread = (item) => {
    const found = Object.keys(item.dataset).filter((key) => /^model\d+$/.test(key)).map((key) => Number(item.dataset[key]));
    return found.length > 1 ? Math.max(...found) - Math.min(...found) : -1;
  };
  const orders = {
    worst: (a, b, model) => reached(a, model) - reached(b, model),
    best: (a, b, model) => reached(b, model) - reached(a, model),
    spread: (a, b) => spread(b) - spread(a),
  };
  const show = () => {
    const model = wanted("model"), order = orders[wanted("order")];
    const kept = items.filter((item) => (!wanted("part") || item.dataset.part === wanted("part"))
      && (!wanted("group") || item.dataset.group === wanted("group")) && (!model || !Number.isNaN(reached(item, model))));
    list.replaceChildren(...(order ? kept.sort((a, b) => order(a, b, model)) : kept));
    const hidden = new Set([...controls.querySelectorAll("[name=side]:not(:checked)")].map((box) => box.value));
    for (const side of list.querySelectorAll("[data-side]")) side.hidden = hidden.has(side.dataset.side);
    document.getElementById("count").textContent = `${kept.length} of ${items.length} items`;
  };
  controls.addEventListener("input", show);
  controls.hidden = false;
  show();
}
