{% include "unpack.js" %}
// Draws over the SVG, which stays where anything of this is not to be had.
(async () => {
  if (!await unpacked()) return;
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const draw = () => {
    const named = (of) => { if (of && of.color) of.color = of.color.replace(/^var\(--(\w+)\)$/, (_, name) => pageColor(name)); };
    const axis = { color: pageColor("ink"), gridcolor: pageColor("line"), zerolinecolor: pageColor("line") };
    figures.forEach((figure, i) => {
      const place = document.getElementById(`picture-${i + 1}`);
      const { data, layout } = structuredClone(figure);
      for (const trace of data) {
        named(trace.marker);
        named(trace.line);
        if (trace.colorbar) Object.assign(trace.colorbar, { tickcolor: pageColor("ink") });
      }
      for (const name of ["xaxis", "yaxis", "yaxis2"]) if (layout[name]) Object.assign(layout[name], axis);
      for (const line of layout.shapes || []) line.line.color = pageColor("faint");
      Object.assign(layout, {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: pageColor("ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
        margin: { l: 70, r: 60, t: 20, b: 60 },
        showlegend: false,
        hoverlabel: { font: { family: "inherit" } },
      });
      place.classList.add("drawn");
      Plotly.react(place.querySelector(".plotly"), data, layout, { responsive: true, displaylogo: false, displayModeBar: false });
    });
  };
  draw();
  dark.addEventListener("change", draw);
})();
