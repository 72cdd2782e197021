{% include "unpack.js" %}
// Every merge a point, and what makes it: by a click on the point, or on its row where it lies on the front.
const points = JSON.parse(document.getElementById("points").textContent);
const put = (id, text) => { document.getElementById(id).textContent = text; };
const show = (number) => {
  const point = points[number];
  if (!point) return;
  put("what", `Trial ${number}: ${point.label}, ${point.settings}`);
  put("lines", point.lines.join(" · "));
  put("command", point.command);
  put("copied", "");
};
const copy = () => {
  const command = document.getElementById("command");
  const select = () => {
    const range = document.createRange();
    range.selectNodeContents(command);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    put("copied", document.execCommand("copy") ? "copied" : "marked: press Ctrl+C");
  };
  if (navigator.clipboard && window.isSecureContext)
    navigator.clipboard.writeText(command.textContent).then(() => put("copied", "copied"), select);
  else select();
};
document.getElementById("copy").addEventListener("click", copy);
document.querySelectorAll("tbody tr").forEach((row) => {
  row.addEventListener("click", () => show(row.dataset.trial));
  row.addEventListener("keydown", (event) => { if (event.key === "Enter") show(row.dataset.trial); });
});
const first = document.querySelector("tbody tr.strong") || document.querySelector("tbody tr");
if (first) show(first.dataset.trial);
(async () => {
  const place = document.getElementById("front");
  if (!await unpacked()) {
    place.remove();
    return;
  }
  const draw = () => {
    const { data, layout } = JSON.parse(document.getElementById("figure").textContent);
    for (const trace of data) if (trace.line) trace.line.color = pageColor("faint");
    for (const line of layout.shapes) line.line.color = pageColor("faint");
    for (const axis of [layout.xaxis, layout.yaxis])
      Object.assign(axis, { color: pageColor("ink"), gridcolor: pageColor("line"), zerolinecolor: pageColor("line") });
    Object.assign(layout, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: pageColor("ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
    });
    // Nothing that would send the points elsewhere.
    const bar = { displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
    return Plotly.react(place, data, layout, { responsive: true, ...bar });
  };
  await draw();
  place.on("plotly_click", (event) => show(event.points[0].customdata));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
