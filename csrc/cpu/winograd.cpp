#include "dilation.h"
#include "families.h"
#include "winograd_backward.h"

namespace myconv2d::MYCONV2D_ISA {

MYCONV2D_EACH_FLOAT(MYCONV2D_WINOGRAD, template)

}  // namespace myconv2d::MYCONV2D_ISA
