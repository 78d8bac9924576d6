#include "depthwise.h"
#include "depthwise_grad_weight.h"
#include "families.h"

namespace myconv2d::MYCONV2D_ISA {

MYCONV2D_EACH_TYPE(MYCONV2D_DEPTHWISE, template)
MYCONV2D_EACH_FLOAT(MYCONV2D_SMALL_GROUPS, template)

}  // namespace myconv2d::MYCONV2D_ISA
