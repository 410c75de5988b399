import classes from './list.module.css'

/** The labels of a job. */
export function Labels({ of }: { of: Record<string, string> }) {
  return Object.entries(of).map(([key, value]) => {
    const text = value ? `${key}=${value}` : key
    return (
      <span key={key} className={classes.label} title={text}>
        {text}
      </span>
    )
  })
}
