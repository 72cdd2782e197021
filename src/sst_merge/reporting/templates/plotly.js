// Unpacks Plotly and draws over the SVG, which stays where anything of this is not to be had.
(async () => {
  if (!("DecompressionStream" in window)) return;
  const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const draw = () => {
    const css = getComputedStyle(document.documentElement);
    const color = (name) => css.getPropertyValue("--" + name).trim();
    const named = (of) => { if (of && of.color) of.color = of.color.replace(/^var\(--(\w+)\)$/, (_, name) => color(name)); };
    const axis = { color: color("ink"), gridcolor: color("line"), zerolinecolor: color("line") };
    figures.forEach((figure, i) => {
      const place = document.getElementById(`picture-${i + 1}`);
      const { data, layout } = structuredClone(figure);
      for (const trace of data) {
        named(trace.marker);
        named(trace.line);
        if (trace.colorbar) Object.assign(trace.colorbar, { tickcolor: color("ink") });
      }
      for (const name of ["xaxis", "yaxis", "yaxis2"]) if (layout[name]) Object.assign(layout[name], axis);
      for (const line of layout.shapes || []) line.line.color = color("faint");
      Object.assign(layout, {
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: color("ink"), family: getComputedStyle(document.body).fontFamily, size: 13 },
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
