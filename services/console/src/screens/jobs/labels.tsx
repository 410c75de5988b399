import { Badge } from '@mantine/core'

/** The labels of a job. */
export function Labels({ of }: { of: Record<string, string> }) {
  return Object.entries(of).map(([key, value]) => {
    const text = value ? `${key}=${value}` : key
    return (
      <Badge key={key} variant="default" size="sm" radius="sm" tt="none" fw={500} title={text} maw={220}>
        {text}
      </Badge>
    )
  })
}
